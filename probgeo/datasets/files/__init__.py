"""Data sets in files of your own: tables, counts, folders of images."""
