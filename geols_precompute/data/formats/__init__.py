"""File formats: what each declares, whether a file is whole, and how it is read and written."""
