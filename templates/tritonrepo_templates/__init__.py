"""Built-in templates of tritonrepo. No code: the __init__ is there so that editable installs find the package."""
