package main

import (
	"errors"
	"runtime/debug"
	"strings"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/filelogreceiver"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/hostmetricsreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

const (
	core    = "go.opentelemetry.io/collector/"
	contrib = "github.com/open-telemetry/opentelemetry-collector-contrib/"
)

// moduleList maps a module path to the version that is linked in, so that no version is written down twice.
type moduleList map[string]string

func linkedModules() moduleList {
	list := moduleList{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			list[dependency.Path] = dependency.Version
		}
	}
	return list
}

func (m moduleList) version(path string) string { return strings.TrimPrefix(m[path], "v") }

func (m moduleList) named(path string) string { return path + " " + m[path] }

// from is one component: its factory and the module it comes from.
type from[F component.Factory] struct {
	factory F
	module  string
}

// register returns the two maps the Collector wants for one kind of component. Old names of a component (`filelog`
// of `file_log`) become keys of the first map only.
func register[F component.Factory](m moduleList, entries ...from[F]) (map[component.Type]F, map[component.Type]string, error) {
	factories := make([]F, 0, len(entries))
	modules := make(map[component.Type]string, len(entries))
	for _, entry := range entries {
		factories = append(factories, entry.factory)
		modules[entry.factory.Type()] = m.named(entry.module)
	}
	byType, err := otelcol.MakeFactoryMap(factories...)
	return byType, modules, err
}

func (m moduleList) factories() (otelcol.Factories, error) {
	var all otelcol.Factories
	var receivers, processors, exporters, extensions error
	all.Receivers, all.ReceiverModules, receivers = register(m,
		from[receiver.Factory]{otlpreceiver.NewFactory(), core + "receiver/otlpreceiver"},
		from[receiver.Factory]{hostmetricsreceiver.NewFactory(), contrib + "receiver/hostmetricsreceiver"},
		from[receiver.Factory]{filelogreceiver.NewFactory(), contrib + "receiver/filelogreceiver"})
	all.Processors, all.ProcessorModules, processors = register(m,
		from[processor.Factory]{batchprocessor.NewFactory(), core + "processor/batchprocessor"},
		from[processor.Factory]{memorylimiterprocessor.NewFactory(), core + "processor/memorylimiterprocessor"})
	all.Exporters, all.ExporterModules, exporters = register(m,
		from[exporter.Factory]{debugexporter.NewFactory(), core + "exporter/debugexporter"},
		from[exporter.Factory]{otlphttpexporter.NewFactory(), core + "exporter/otlphttpexporter"},
		from[exporter.Factory]{fileexporter.NewFactory(), contrib + "exporter/fileexporter"})
	all.Extensions, all.ExtensionModules, extensions = register(m,
		from[extension.Factory]{opampextension.NewFactory(), contrib + "extension/opampextension"},
		from[extension.Factory]{healthcheckextension.NewFactory(), contrib + "extension/healthcheckextension"},
		from[extension.Factory]{filestorage.NewFactory(), contrib + "extension/storage/filestorage"})
	all.Telemetry = otelconftelemetry.NewFactory()
	return all, errors.Join(receivers, processors, exporters, extensions)
}
