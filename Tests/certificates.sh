#!/usr/bin/env bash
# Writes the certificates and keys that tests of TLS need into a folder: ./Tests/certificates.sh FOLDER
#
# Nothing of it is ever stored in git. Keys are P-256, because making them costs no time.
#
#   root.pem                          the authority that tests trust
#   server.pem, server-key.pem        localhost, 127.0.0.1 and ::1; the chain holds the intermediate authority
#   renewed.pem, renewed-key.pem      the same names, another key
#   chat.pem, chat-key.pem            chat.example and *.rooms.example
#   client.pem, client-key.pem        a client with names of every kind
#   expired.pem, expired-key.pem      localhost, expired yesterday
#   rsa-key.pem, encrypted-key.pem    keys that fit none of them, or ask for a passphrase
#   stranger-root.pem, stranger.pem, stranger-key.pem    an authority that nobody trusts, and a client of it
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
umask 077
# A failure says more than openssl's chatter does.
exec 3>&2 2>openssl.log
trap 'status=$?; [ $status -eq 0 ] || cat openssl.log >&3; exit $status' EXIT

# issue NAME ISSUER DAYS SUBJECT EXTENSIONS: NAME.pem and NAME-key.pem, signed by ISSUER, or by itself.
issue() {
    local name=$1 issuer=$2 days=$3 subject=$4 extensions=$5
    openssl ecparam -name prime256v1 -genkey -noout -out "$name-key.pem"
    openssl req -new -utf8 -key "$name-key.pem" -subj "$subject" -out "$name.csr"
    local signer=(-CA "$issuer.pem" -CAkey "$issuer-key.pem" -CAcreateserial)
    [ "$issuer" = "$name" ] && signer=(-signkey "$name-key.pem")
    openssl x509 -req -in "$name.csr" "${signer[@]}" -days "$days" \
        -extfile <(printf '%b' "$extensions") -out "$name.pem"
    rm "$name.csr"
}

authority='basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n'
localhost='subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nextendedKeyUsage=serverAuth\n'

issue root root 3650 '/CN=Starling test root' "$authority"
issue intermediate root 3650 '/CN=Starling test intermediate' "$authority"
issue server intermediate 30 '/CN=localhost' "$localhost"
cat intermediate.pem >> server.pem
issue renewed root 30 '/CN=localhost' "$localhost"
issue expired root -1 '/CN=localhost' "$localhost"
issue chat root 30 '/CN=chat.example' 'subjectAltName=DNS:chat.example,DNS:*.rooms.example\n'
issue client root 30 '/O=Starling/CN=Zoë' \
    'subjectAltName=DNS:zoe.example,URI:spiffe://example/zoe,email:zoe@example.org,IP:192.0.2.7\nextendedKeyUsage=clientAuth\n'
issue stranger-root stranger-root 30 '/CN=Stranger' "$authority"
issue stranger stranger-root 30 '/CN=Mallory' 'extendedKeyUsage=clientAuth\n'
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa-key.pem
openssl pkey -in server-key.pem -aes256 -passout pass:secret -out encrypted-key.pem
rm -f ./*.srl intermediate-key.pem openssl.log
