"""Numbers from answers and kept sets: functions first, and one torchmetrics shell, `MeanOf`, around any of them."""
