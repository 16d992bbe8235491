# syntax=docker/dockerfile:1
# The service and nothing else: no shell, no package manager, not root, nothing it writes.
#
#   make image                            # with docker, podman or buildah
#   docker build --tag vaultmux-mesh .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag vaultmux-mesh .
#   docker run --read-only --cap-drop ALL -p 127.0.0.1:8080:8080 -v "$PWD:/etc/vaultmux:ro" \
#     vaultmux-mesh serve --config /etc/vaultmux/vaultmux.yaml
#
# Both images are of Debian 12, so that the binary finds the C library it was built with.
ARG RUST_VERSION=1.94.1
ARG DEBIAN=12

# Builds for the machine it runs on: each platform on its own, emulated where it is another's.
FROM docker.io/library/rust:${RUST_VERSION}-slim-bookworm AS toolchain
# AWS-LC, the one stack for TLS, is C and assembler.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# Dependencies alone, from the two files that name them: a layer that changes of the sources keep.
FROM toolchain AS dependencies
COPY Cargo.toml Cargo.lock ./
# Stand-ins for the sources, and for each bench and test that Cargo.toml names: Cargo wants them all.
# Their times are of long ago, so that the real ones are newer.
RUN mkdir -p src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
 && sed -n -e '/^\[\[bench\]\]/,/^$/s|^name = "\(.*\)"|benches/\1.rs|p' \
      -e '/^\[\[test\]\]/,/^$/s|^path = "\(.*\)"|\1|p' Cargo.toml > stand-ins \
 && while read -r file; do mkdir -p "${file%/*}" && echo 'fn main() {}' > "$file"; done < stand-ins \
 && find src -exec touch --date=@0 {} + \
 && cargo build --release --locked --bin vaultmux-mesh

FROM dependencies AS build
COPY proto proto
COPY src src
RUN find src proto -type f -exec touch {} + \
 && cargo build --release --locked --bin vaultmux-mesh \
 && ./target/release/vaultmux-mesh --version

# C library, libgcc, certificate authorities, a user `nonroot`.
FROM gcr.io/distroless/cc-debian${DEBIAN}:nonroot
LABEL org.opencontainers.image.title="vaultmux-mesh" \
      org.opencontainers.image.description="Authorises Kubernetes service accounts for Envoy and Istio, and resolves secrets of cloud stores" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# In the search path, so that probes name it without one.
COPY --from=build --chown=0:0 --chmod=0755 /build/target/release/vaultmux-mesh /usr/local/bin/vaultmux-mesh
# By number: Kubernetes' `runAsNonRoot` does not look names up.
USER 65532:65532
# 9191 ext_authz and ext_proc, 8080 REST, 9090 probes and metrics.
EXPOSE 9191 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/vaultmux-mesh"]
# By vaultmux-server's variables; with a file: `serve --config FILE`.
CMD ["serve"]
