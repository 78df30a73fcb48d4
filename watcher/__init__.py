"""The daemon that stores a version of every memory file as soon as the file changes.

Events make the daemon fast, and scans with hashes make it reliable. A backend reports an event, and `event_queue` holds
the file until its writer is likely done (`debounce`). One thread, `worker`, then reads the file and appends its version
to the journal of the home (`projects`, `capture`); `scheduler` decides when that thread does its other tasks. A `scan`
finds changes that no event reports: changes before the start, after an overflow, in a new folder or in a folder that
was lost. Only a second thread, `delivery`, uses the database: it delivers the journal, lists projects and compares.
"""
