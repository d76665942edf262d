#!/bin/sh
# Tests the JavaScript client: what is served is made of the source and small, its types hold, and it does what it says: in Node
# with a server that shows every fault, and with one of ours; in headless Chromium, with servers that are killed.
#
#   ./Tests/JavaScript/run.sh
set -eu
cd "$(dirname "$0")/../.."
. Examples/Support/setup.sh

bytes_max=5999
sources=$PWD/Sources/StarlingTopics/JavaScript
folder=$PWD/.build-javascript

install_program node nodejs
install_program chromium chromium
install_program redis-server redis-server
install_missing $build_packages esbuild node-ws node-typescript
require_swift

rm -rf "$folder"
mkdir -p "$folder"
./Tests/JavaScript/minify.sh "$folder/starling.min.js"
cmp "$folder/starling.min.js" "$sources/starling.min.js" || {
    echo "starling.min.js is not what starling.js makes: run ./Tests/JavaScript/minify.sh with esbuild 0.17 (here is $(esbuild --version))" >&2
    exit 1
}
bytes=$(wc -c <"$sources/starling.min.js")
[ "$bytes" -le "$bytes_max" ] || { echo "starling.min.js has $bytes bytes, and may have $bytes_max" >&2; exit 1; }
echo "ok      starling.min.js: $bytes bytes"

cp Tests/JavaScript/types_test.ts "$sources/starling.d.ts" "$folder"
tsc --strict --noEmit --target es2022 --module es2022 --moduleResolution node --lib es2022,dom "$folder/types_test.ts"
echo "ok      starling.d.ts: the types hold"

swift build $swift_traits -c release --product TopicServer
server="$(swift build $swift_traits -c release --show-bin-path)/TopicServer"

# As modules, whatever Node thinks of .js.
for script in starling starling.min; do
    cp "$sources/$script.js" "$folder/$script.mjs"
    echo "$script.js:"
    STARLING_SCRIPT=$folder/$script.mjs STARLING_SERVED=$sources/starling.min.js STARLING_SERVER="$server --log-level critical" \
        node --test --test-reporter=spec Tests/JavaScript/client_test.mjs Tests/JavaScript/server_test.mjs
done

python_environment .build-browser/python Tests/Browser/requirements.txt
PYTHONDONTWRITEBYTECODE=1 .build-browser/python/bin/python Tests/Browser/script_test.py --server "$server --host 127.0.0.1 --port {port}"
