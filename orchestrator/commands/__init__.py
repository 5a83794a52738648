"""What each command of the command line does; `cli` has the list.

Whatever a command needs is imported when it runs, so that `fsq --help` and `fsq status` answer at once.
"""
