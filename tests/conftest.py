"""What every test relies on, wherever the suite is started from."""

import signal

# A shell starts what it puts into the background with SIGINT ignored, and so would each process be
# that a test starts and interrupts. A handler is not inherited: they begin with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
