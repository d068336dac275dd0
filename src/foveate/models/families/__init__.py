"""One adapter per model family; nothing else knows how a family arranges its images."""
