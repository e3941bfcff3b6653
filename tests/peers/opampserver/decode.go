package main

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// uidText is the canonical UUID, or plain hex for an instance uid of another length than sixteen bytes.
func uidText(raw []byte) string {
	if id, err := uuid.FromBytes(raw); err == nil {
		return id.String()
	}
	return hex.EncodeToString(raw)
}

type descriptionView struct {
	Identifying    map[string]any `json:"identifying"`
	NonIdentifying map[string]any `json:"non_identifying"`
}

type healthView struct {
	Healthy            bool                   `json:"healthy"`
	Status             string                 `json:"status"`
	LastError          string                 `json:"last_error"`
	StartTimeUnixNano  uint64                 `json:"start_time_unix_nano"`
	StatusTimeUnixNano uint64                 `json:"status_time_unix_nano"`
	ComponentHealthMap map[string]*healthView `json:"component_health_map"`
}

type configStatusView struct {
	Hash         string `json:"hash"`
	Status       string `json:"status"`
	ErrorMessage string `json:"error_message"`
}

// reportView holds the fields of AgentToServer. In the log an absent field was absent in the message; in the merged
// view of an agent it was never reported.
type reportView struct {
	SequenceNum        uint64                     `json:"sequence_num"`
	Capabilities       uint64                     `json:"capabilities"`
	Flags              uint64                     `json:"flags"`
	Description        *descriptionView           `json:"description,omitempty"`
	Health             *healthView                `json:"health,omitempty"`
	EffectiveConfig    map[string]string          `json:"effective_config,omitzero"`
	RemoteConfigStatus *configStatusView          `json:"remote_config_status,omitempty"`
	ConnectionStatus   *configStatusView          `json:"connection_settings_status,omitempty"`
	AgentDisconnect    bool                       `json:"agent_disconnect,omitempty"`
	Other              map[string]json.RawMessage `json:"other,omitempty"`
}

func viewOf(message *protobufs.AgentToServer) reportView {
	view := reportView{
		SequenceNum:     message.GetSequenceNum(),
		Capabilities:    message.GetCapabilities(),
		Flags:           message.GetFlags(),
		Description:     viewOfDescription(message.GetAgentDescription()),
		Health:          viewOfHealth(message.GetHealth()),
		AgentDisconnect: message.GetAgentDisconnect() != nil,
	}
	if config := message.GetEffectiveConfig(); config != nil {
		view.EffectiveConfig = map[string]string{}
		for name, file := range config.GetConfigMap().GetConfigMap() {
			view.EffectiveConfig[name] = string(file.GetBody())
		}
	}
	if status := message.GetRemoteConfigStatus(); status != nil {
		view.RemoteConfigStatus = &configStatusView{
			Hash:         hex.EncodeToString(status.GetLastRemoteConfigHash()),
			Status:       strings.TrimPrefix(status.GetStatus().String(), "RemoteConfigStatuses_"),
			ErrorMessage: status.GetErrorMessage(),
		}
	}
	if status := message.GetConnectionSettingsStatus(); status != nil {
		view.ConnectionStatus = &configStatusView{
			Hash:         hex.EncodeToString(status.GetLastConnectionSettingsHash()),
			Status:       strings.TrimPrefix(status.GetStatus().String(), "ConnectionSettingsStatuses_"),
			ErrorMessage: status.GetErrorMessage(),
		}
	}
	view.keep("package_statuses", message.GetPackageStatuses())
	view.keep("connection_settings_request", message.GetConnectionSettingsRequest())
	view.keep("custom_capabilities", message.GetCustomCapabilities())
	view.keep("custom_message", message.GetCustomMessage())
	view.keep("available_components", message.GetAvailableComponents())
	return view
}

// keep stores a field that has no shape of its own here in protobuf's JSON form.
func (v *reportView) keep(name string, field proto.Message) {
	if !field.ProtoReflect().IsValid() {
		return
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(field)
	if err != nil {
		text, _ = json.Marshal("not JSON: " + err.Error())
	}
	if v.Other == nil {
		v.Other = map[string]json.RawMessage{}
	}
	v.Other[name] = text
}

// merge overlays what a newer message said.
func (v *reportView) merge(newer reportView) {
	v.SequenceNum, v.Capabilities, v.Flags = newer.SequenceNum, newer.Capabilities, newer.Flags
	if newer.Description != nil {
		v.Description = newer.Description
	}
	if newer.Health != nil {
		v.Health = newer.Health
	}
	if newer.EffectiveConfig != nil {
		v.EffectiveConfig = newer.EffectiveConfig
	}
	if newer.RemoteConfigStatus != nil {
		v.RemoteConfigStatus = newer.RemoteConfigStatus
	}
	if newer.ConnectionStatus != nil {
		v.ConnectionStatus = newer.ConnectionStatus
	}
	v.AgentDisconnect = v.AgentDisconnect || newer.AgentDisconnect
	for name, text := range newer.Other {
		if v.Other == nil {
			v.Other = map[string]json.RawMessage{}
		}
		v.Other[name] = text
	}
}

func viewOfDescription(description *protobufs.AgentDescription) *descriptionView {
	if description == nil {
		return nil
	}
	return &descriptionView{
		Identifying:    attributes(description.GetIdentifyingAttributes()),
		NonIdentifying: attributes(description.GetNonIdentifyingAttributes()),
	}
}

func viewOfHealth(health *protobufs.ComponentHealth) *healthView {
	if health == nil {
		return nil
	}
	view := &healthView{
		Healthy:            health.GetHealthy(),
		Status:             health.GetStatus(),
		LastError:          health.GetLastError(),
		StartTimeUnixNano:  health.GetStartTimeUnixNano(),
		StatusTimeUnixNano: health.GetStatusTimeUnixNano(),
		ComponentHealthMap: map[string]*healthView{},
	}
	for name, part := range health.GetComponentHealthMap() {
		view.ComponentHealthMap[name] = viewOfHealth(part)
	}
	return view
}

func attributes(pairs []*protobufs.KeyValue) map[string]any {
	flat := make(map[string]any, len(pairs))
	for _, pair := range pairs {
		flat[pair.GetKey()] = plain(pair.GetValue())
	}
	return flat
}

func plain(value *protobufs.AnyValue) any {
	switch v := value.GetValue().(type) {
	case *protobufs.AnyValue_StringValue:
		return v.StringValue
	case *protobufs.AnyValue_BoolValue:
		return v.BoolValue
	case *protobufs.AnyValue_IntValue:
		return v.IntValue
	case *protobufs.AnyValue_DoubleValue:
		return v.DoubleValue
	case *protobufs.AnyValue_BytesValue:
		return hex.EncodeToString(v.BytesValue)
	case *protobufs.AnyValue_KvlistValue:
		return attributes(v.KvlistValue.GetValues())
	case *protobufs.AnyValue_ArrayValue:
		list := []any{}
		for _, item := range v.ArrayValue.GetValues() {
			list = append(list, plain(item))
		}
		return list
	default:
		return nil
	}
}
