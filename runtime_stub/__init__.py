"""What travels inside an artifact: standard library and torch only, nothing of occ."""
