"""Load tests of servers with and without compression."""
