"""What makes an owner's update safe to share: noise, clipping, accounting and the ledger.

Nothing in here knows jobs, models or Flower, so every mechanism is tested without them: ``accounting``
says what noise is worth, ``noise`` adds it, ``dpsgd`` clips and noises gradients, ``ledger`` remembers
what was spent, ``secagg`` lets a server open sums only.
"""
