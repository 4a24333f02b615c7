"""The built-in plugins: one file each, written against the public API as a stranger's would be.

Nothing here is imported by the gateway itself: these are found by their entry points, as every plugin is.
"""
