"""An agent acts for another one: what was passed on, and whether it still holds (CONTRACT §7).

A delegation only ever narrows. The caller's own policies decide as they would without it, and
every delegator above must be allowed the action too.

    scope         which patterns cover which
    relationship  one hop: what is stored of it, and what is shown
    issue         who may pass on what, asked once, when a hop is made
    receipt       hops  ->  a signed chain in a header, and back
    walk          hops, caller, now, action  ->  Walked or Broken, asked at each use
    standing      how a hop stands for people who look at it
    fuse          a delegation that fails too often is shut for a while
"""
