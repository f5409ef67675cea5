"""The runtime images: what a run sees, declared by locks, packed by us, and recorded before anything runs in it."""
