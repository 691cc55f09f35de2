"""What providers bill: one file for each provider's cost API, and one for the files of clouds.

lines       a line of a bill, the same whoever billed it
reports     how pages of a report are asked for: errors, rate limits, time
openai, anthropic
files, tables    FOCUS and AWS CUR as CSV
"""
