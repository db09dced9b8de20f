"""Who belongs together: cards and requests, keys and how they are replaced, signed jobs and delegations.

``card`` is what operator and owners give each other, ``authority`` the operator's folder with its
keys, ``folder`` the same as everybody at the operator reads it, ``packets`` the files in which what
is signed travels.
"""
