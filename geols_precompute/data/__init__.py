"""Source files to prepared volumes: layouts of data folders, image files, headers, preparation."""
