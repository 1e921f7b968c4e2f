"""The demo: the whole queue at work on this machine's own files, with a server and workers of its own.

tasks    what a worker does with one file          (runs in the worker processes)
fleet    the worker processes, and keeping them alive
crash    kill -9, in the middle of the work
results  what the workers wrote down, and the figures from it
check    the same files once more, read directly
manifest the result as a file
display  what people see
run      puts it all together
"""
