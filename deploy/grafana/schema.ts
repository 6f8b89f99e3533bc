// What dashboard.json has to be, in Grafana's own types; `make dashboard` checks it with the TypeScript compiler.
// A panel of another kind, or a query of another source, needs a line here.
import type { Dashboard, DataQuery, FieldConfigSource, Panel } from "@grafana/schema";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as stateTimeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as timeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the value of an enum, not its name.
type Json<T> = T extends string ? `${T}` : T extends (infer E)[] ? Json<E>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Query = DataQuery & { expr: string; legendFormat: string; instant?: boolean };
type Threshold = { color: string; value: number | null }; // null: from minus infinity, which JSON cannot say
type Defaults<Custom> = Omit<FieldConfigSource["defaults"], "custom" | "thresholds"> & {
  custom?: Custom;
  thresholds?: { mode: "absolute"; steps: Threshold[] };
};
type PanelOf<Type, Options, Custom> = Required<Pick<Panel, "id" | "title" | "description" | "gridPos" | "datasource">> & {
  type: Type;
  targets: Query[];
  fieldConfig: Omit<FieldConfigSource, "defaults"> & { defaults: Defaults<Custom> };
  options: Options;
};

export type Tweets = Json<
  Omit<Dashboard, "panels"> & {
    panels: (
      | PanelOf<"stat", stat.Options, never>
      | PanelOf<"state-timeline", stateTimeline.Options, stateTimeline.FieldConfig>
      | PanelOf<"timeseries", timeSeries.Options, timeSeries.FieldConfig>
    )[];
  }
>;
