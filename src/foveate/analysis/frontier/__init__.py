"""Tables and figures of the plane of image size and budget."""
