"""How much a round's protocol can tell: what it promotes and confirms when there is nothing to find.

`protocol` makes the round whose arms differ in nothing but their seed, `runs` reads what it measured, `searches` has
the planner search over runs drawn from these, with effects planted or not, and `power` says what follows.
"""
