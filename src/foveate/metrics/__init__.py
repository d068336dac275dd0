"""Numbers from answers and kept sets: functions first, torchmetrics around them."""
