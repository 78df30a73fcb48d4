"""The daemon that takes a version of every memory file as soon as it changes.

Events make it fast, scan plus hash makes it right. What an event names becomes due a moment later (`settle`), one
worker thread reads it and hands it to the library (`capture`), and whatever events cannot tell (the past, an overflow,
a new folder, a lost one) is found by one and the same `scan`.
"""
