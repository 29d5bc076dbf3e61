"""Stores handed on between labs: pulled, packed, merged, exported, and compared with a lab's own data."""
