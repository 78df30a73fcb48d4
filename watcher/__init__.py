"""The daemon that takes a version of every memory file as soon as it changes.

Events make it fast, a scan with hashes makes it right. A backend reports an event, and `event_queue` holds the file
until its writer is likely done (`debounce`). One thread, `worker`, then reads the file and stores it (`projects`,
`capture`); `scheduler` says when that thread does everything else. A `scan` finds what no event tells: changes before
the start, after an overflow, in a new folder or in one that was lost.
"""
