"""Compressors as programs of other engines: from features and attention rows to kept patches, without this package."""
