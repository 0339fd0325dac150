#!/bin/sh
# Takes out of the base image what the sidecar does not run: package managers, perl, tools that
# mount and log in, Python's own installer and documentation.
#
#   prune-root.sh
#
# It works on the root file system that it runs in, of a build stage which the image is a copy of.
# That is a third of the base image, and most of what somebody who got in would reach for. sh and
# coreutils stay, to look around with. dpkg's own record of what is installed stays and is true, so
# that scanners for known vulnerabilities see what there is.
set -eu

python=$(python -c 'import sys; print(sys.base_prefix)')/lib/python3.11
local=/usr/local/lib/python3.11
for name in ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo; do
    rm -rf "$python/$name" "$local/$name"
done
rm -rf "$local/site-packages"/* /usr/share/python-wheels
find /usr/local/bin ! -type d ! -name 'python*' -delete
find "$python" "$local" -type d -name __pycache__ -prune -exec rm -r '{}' +
python -m compileall -q --invalidation-mode unchecked-hash "$python"

# Nothing may gain rights here: no program runs as another user than whoever starts it.
find / -xdev -type f -perm /6000 -exec chmod a-s '{}' +

# Without the packages' own scripts, some of which need perl, and without looking at who depends on
# whom: what depends on these is maintenance of the system, and of that there is none.
rm -f /var/lib/dpkg/info/*.prerm /var/lib/dpkg/info/*.postrm /var/lib/dpkg/info/*.postinst
for package in \
    adduser apt bash bsdutils debian-archive-keyring diffutils e2fsprogs findutils gpgv gzip hostname \
    init-system-helpers libapt-pkg6.0 libext2fs2 libgcrypt20 libgnutls30 libgpg-error0 libhogweed6 \
    libidn2-0 libnettle8 libp11-kit0 libpam-modules libpam-modules-bin libpam-runtime libpam0g \
    libss2 libsystemd0 libtasn1-6 libunistring2 login logsave mount ncurses-bin openssl passwd \
    perl-base sysvinit-utils tar tzdata util-linux util-linux-extra
do
    if dpkg-query --show "$package" >/dev/null 2>&1; then echo "$package"; fi
done >/tmp/packages
xargs dpkg --purge --force-all </tmp/packages >/tmp/purged 2>&1 || { cat /tmp/purged >&2; exit 1; }

# glibc's tables of other character sets: Python has its own.
rm -rf /usr/lib/*/gconv
rm -rf /usr/share/doc /usr/share/info /usr/share/man /usr/share/locale /usr/share/bash-completion \
    /usr/share/perl5 /usr/share/lintian /var/cache/* /var/log/* /var/lib/apt /tmp/* ~root/.cache
