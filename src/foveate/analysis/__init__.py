"""Records become frames, frames become tables and figures. Only commands and the page import this."""
