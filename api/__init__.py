"""The Python face: what ``import umbel`` offers, in a script or a notebook. The root hands it on."""
