"""Records become frames, frames become tables and figures. Nothing in the package imports this."""
