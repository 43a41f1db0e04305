"""What the machine does to a program: cores it may use, disks that fail, Ctrl-C."""
