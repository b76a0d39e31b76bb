"""Hostile operations of our own. Everything here runs inside the container that is being judged, and nowhere else."""
