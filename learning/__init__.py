"""A model learns from local data. Knows nothing of rounds, other clients or the network.

Guarantee: no library that this room uses fetches code: if the package ``kernels`` is installed, transformers
and bitsandbytes would run compiled code of the model hub, the latter without being asked and while it is
imported. No process that has imported this room can import ``kernels``, unless it had before.
"""

import logging
import sys

sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
# They warn of kernels for other machines, in every process, if they are installed (``quantization``).
for _name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
