"""The rules, without the world.

Nothing below this package opens a socket, a file or a database, starts a thread, reads a clock
or logs: bytes and `now` come in, values go out. It imports nothing else of ours. In the order a
request meets them:

    call       CheckRequest bytes, or an HTTP request  ->  Call
    identity   Call, key, now                          ->  Identity or Unidentified
    stages     Case  ->  Pass or Deny, one file each
    verdict    runs the chain, then applies the mode, once
    audit      Outcome  ->  AuditRow, a value
    reply      Outcome  ->  CheckResponse bytes, or an HTTP answer
"""
