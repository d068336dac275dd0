"""The page of `foveate explore`: kept patches, scores, attention and answers for one image and question."""
