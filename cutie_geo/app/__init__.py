"""The annotation app: a local web server over sessions, and the page that it serves."""
