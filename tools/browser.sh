#!/usr/bin/env bash
# Chromium for the tests of HTML pages: from Debian's packages where this may install them.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" > /dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo installing chromium
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
        > /dev/null 2>&1 && exit 0
fi
echo 'no Chromium here: the tests of HTML pages will be skipped'
