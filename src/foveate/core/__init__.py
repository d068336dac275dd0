"""Values and contracts; knows no model library."""
