"""Built-in templates of tritonrepo; this package holds no code. It has an __init__ so that editable installs find it."""
