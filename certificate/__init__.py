"""What a finished run can show for itself: a signed certificate, its check, and a model card.

``form`` is the certificate and its signature, ``issue`` states one from a run's own files, ``check``
holds one against files and keys (``guarantee`` against its own figures, ``owner`` against an owner's
ledger, whose heads ``seal`` hides), ``model_card`` says the same to people. Nothing here needs a
network or a model: anyone who has the files and a public key can check them.
"""
