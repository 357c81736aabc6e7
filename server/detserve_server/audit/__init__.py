"""The audit log: one hash-chained line for each request that the gateway answered.

nginx writes an access log in JSON lines. The collector follows it, checks every line and chains what it
read::

    hash_i = SHA-256(hash_{i-1} || canonical JSON of record i)

into ``audit-YYYY-MM-DD[.N].jsonl``, and signs the head of the chain (sequence, hash, position in the access
log) with an Ed25519 key into ``head.json``.

What is guarded against whom:

- Somebody who may write the audit files but has no key can change, remove, insert or reorder lines or files,
  cut the tail off, or compute a whole new chain: ``verify`` finds each of these, because the signed head
  fixes the last sequence and hash and they fix all lines before.
- An older head alone, with newer lines behind it, is refused: the head is written before a batch too, with
  the hash that its lines will end at, so a killed collector's lines are told from those of a newer head.
- The one thing such a person can do is to put back an *older* head together with the files of that time.
  Copies of ``head.json`` kept elsewhere (another machine, a mailbox) are anchors: ``verify --anchor`` wants
  each in the chain. What lies between the newest anchor and now is as safe as the folder.
- Somebody with the private key, or who controls the access log before it is collected (root of the gateway),
  is not guarded against. Give the collector its own user, and the key to nobody else.
"""
