"""Secure aggregation: a server adds up vectors of which it can open only the sum of a cohort.

Double masking (Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine
learning") with signed keys and a confirmation trip, so that it holds against a server that breaks
the protocol and colludes with some of the members. Pure functions over bytes and arrays; no network.

One *slot* is one attempt at one sum. Member i draws an X25519 pair and a seed b, and sends

    y_i = x_i + PRG(b_i) + sum over j of (+-) PRG(shared key of i and j)      modulo 2^32.

The pairwise masks of i and j cancel in the sum. Shares of b_i and of i's private key lie sealed with
the other members. Of a member whose vector arrived they reveal shares of b, of one that dropped out
shares of its key, and never of both.

Reading order: ``encoding`` and ``messages`` (what travels), ``keys``, ``roster``, ``parameters``
(who, and how many), ``fixed_point``, ``masks`` and ``shamir`` (the arithmetic), ``member`` (one state
machine; ``checks`` is what it insists on) and ``aggregator`` (the other; ``collecting`` is its half until
the survivors are fixed), ``journal`` and ``participant`` (a member that may be killed), ``repeats``
(when the same content is masked again), ``counted`` (how a member is shown that its vector was in a sum).

Guarantee. Let n be the members of a cohort, n_C how many of the whole roster at most collude with each
other and with the server, and t = floor((n + n_C) / 2) + 1 the quorum. Whatever the server sends, it and the
colluders learn of the honest members' vectors in a slot nothing but the sum over one set, which
holds at least max(t, n_min) members and therefore at least max(t, n_min) - n_C >= 2 honest ones.

Why. (1) *Keys.* Prekeys are signed with identities from a roster that every member pins, over the
slot, the cohort and the opening request; so the server knows no pairwise key of two honest members,
and cannot replay one. (2) *One kind of share.* An honest member reveals once a slot, for a set that
it confirmed, and gives for each member either kind. Two different sets with a quorum of confirmations
each would need 2 (t - n_C) honest signers, more than the n - n_C that there are, as no honest member
signs two. So at most one set is opened, and for an honest member of it the server has only the
colluders' n_C < t shares of the private key, for an honest dropout only those of b. (3) *Masks.* Keys
come from X25519 and HKDF-SHA256, keystreams from AES-128; short of breaking these, an honest y is
uniform given all others, but for the sum. (4) *Same question.* The hash of the manifest (slot,
roster, model and settings, limits, all prekeys) is in every mask, and members refuse a manifest that
is not of what they were asked to compute; who was given another manifest masks into noise, which the
member count and check word of the opened sum expose. (5) *Once.* The journal is on disk before a
reply leaves; a slot masks one vector, and slots only count upwards.

Above 100 members, everybody shares with k neighbours on a circle that all members order by nonces
that each has committed to. k and the thresholds among neighbours are chosen so that, but for a
chance of 2^-40 a slot, colluders who were placed at random are too few among anybody's neighbours, and every
k/2 members in a row keep an honest survivor, so that honest survivors stay connected.

Assumptions: the roster's key is honest and pinned; X25519 (decisional Diffie-Hellman with hashing),
Ed25519, AES and SHA-256 are what they are taken for; members' random numbers are the operating
system's; colluders are at most n_C, and chosen before the nonces if there is a circle. Static
corruption; no post-quantum security: who records a slot today and breaks X25519 later reads it.

Not covered: what the sum itself tells, or two sums of different contents over overlapping sets of
members (that is what differential privacy is for; one content is in one opened sum, see ``repeats``);
poisoned inputs, also beyond the limits (there are no range proofs); denial of service; who took part
and when; timing inside the process.

In two-trip mode (``Limits.confirm`` is False) nobody confirms and the quorum is at least 0.8 n. It is
meant for a server that follows the protocol. One that does not can still get one kind of share only
of each honest member, so it opens one set, but that set may be smaller than any member was shown.
"""
