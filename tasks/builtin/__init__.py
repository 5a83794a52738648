"""The task kinds that come with fsq, one module each, and what several of them share.

A kind is a `tasks.Task` like any third party's: it knows its options, its columns and the layout of one
row, and is found through the entry points `fsq.tasks`. Nothing here selects rows, counts tokens or caches.
"""
