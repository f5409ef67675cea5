"""Takes a file through the gates, using the four packages below that do not know each other."""
