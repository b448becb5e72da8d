"""What plugs AutoPeri into other packages; each module is imported by those who use it."""
