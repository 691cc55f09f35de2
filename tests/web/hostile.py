"""What nobody means to ask for, and somebody will."""

NINES = "9" * 5000  # more digits than Python makes a number of

VALUES = (
    "\0",
    "a\0b",
    "2026-11\0",
    "0001-01",
    "0001-02",
    "9999-12",
    "1999-12",
    "0001-01-01",
    "0001-01-03",
    "9999-12-31",
    "0001-01-01T00:00:00+23:00",
    "9999-12-31T23:59:59-23:00",
    "2026-11-01T00:00:00+23:59:59.999999",
    "MDAwMS0wMS0wMVQwMDowMDowMCsyMzowMCAxMjM0NTY3OC0xMjM0LTEyMzQtMTIzNC0xMjM0NTY3ODkwMTI=",  # a cursor of year 1
    "-1",
    "1e999",
    "9" * 30,
    NINES,
    "\U0001f9ff\ud7ff%",
    "x" * 300,
)
