//! DescribeCluster: the brokers, for administration.

use highwater_metadata::BrokerState;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{ApiKey, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::{controller, node};
use super::{Broken, Call, Handler, operations};
use crate::layout::{Layout, int8};

/// What kind of nodes is asked for: these, or controllers, which Kafka clients can't reach here.
const BROKERS: i8 = 1;

pub(super) struct DescribeCluster;

impl Handler for DescribeCluster {
    type Request = DescribeClusterRequest;
    type Response = DescribeClusterResponse;
    const KEY: ApiKey = ApiKey::DescribeCluster;
    const VERSIONS: (i16, i16) = (0, 2);
    const LAYOUT: Layout = Layout { flexible: 0, fields: &[int8(), int8().since(1), int8().since(2)] };

    async fn handle(call: &Call, request: DescribeClusterRequest) -> Result<DescribeClusterResponse, Broken> {
        let response = DescribeClusterResponse::default();
        if request.endpoint_type != BROKERS {
            let why = "Kafka clients reach brokers only; any of them takes what is for controllers";
            return Ok(response
                .with_error_code(ResponseError::UnsupportedEndpointType.code())
                .with_error_message(Some(StrBytes::from_static_str(why)))
                .with_controller_id((-1).into()));
        }
        let (door, image) = (&call.door, call.door.api.link.image());
        let is_wanted = |broker: &&BrokerState| request.include_fenced_brokers || !broker.fenced;
        let broker = |broker: &BrokerState| {
            let endpoint = door.endpoint(broker)?;
            let described = DescribeClusterBroker::default()
                .with_broker_id(node(broker.id))
                .with_host(StrBytes::from_string(endpoint.host.clone()))
                .with_port(endpoint.port.into())
                .with_rack(broker.rack.clone().map(StrBytes::from_string))
                .with_is_fenced(broker.fenced);
            Some(described)
        };
        let operations = operations::told(request.include_cluster_authorized_operations, operations::CLUSTER);
        Ok(response
            .with_endpoint_type(BROKERS)
            .with_cluster_id(StrBytes::from_string(image.cluster_id.clone()))
            .with_controller_id(controller(door, &image))
            .with_brokers(image.brokers.values().filter(is_wanted).filter_map(broker).collect())
            .with_cluster_authorized_operations(operations))
    }
}
