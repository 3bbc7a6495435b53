// Where the kinds of the cluster's other parts are described: their custom resource definitions come with these modules.
// Nothing is built from them. Versions are those of manifests/upstream.yaml; a test compares.
module slipway/tests/manifests

go 1.25.0

require (
	github.com/GoogleCloudPlatform/gke-gateway-api v1.3.0
	github.com/GoogleCloudPlatform/prometheus-engine v0.17.2
	github.com/cert-manager/cert-manager v1.20.3
	github.com/kedacore/keda/v2 v2.19.0
	sigs.k8s.io/kueue v0.19.2
)
