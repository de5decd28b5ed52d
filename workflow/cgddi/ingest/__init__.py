"""From published or local tables to an image sheet and a disease sheet, and the deep check of both.

Everything imported from here at planning (`names`, `table`) is light: standard library only.
"""
