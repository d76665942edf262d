#!/bin/sh
# Makes starling.min.js, which is what is served, of starling.js.
#
#   ./Tests/JavaScript/minify.sh            writes it where it is checked in
#   ./Tests/JavaScript/minify.sh FILE       writes it there
#
# There is nothing to bundle, but so esbuild shortens the names of what is exported where they are used.
# Another version of esbuild may make other bytes: this is Debian 12's.
set -eu
cd "$(dirname "$0")/../.."
folder=Sources/StarlingTopics/JavaScript
esbuild --bundle --format=esm --minify --target=es2022 --banner:js="// starling.js, minified" "$folder/starling.js" >"${1:-$folder/starling.min.js}"
